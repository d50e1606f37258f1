-- $1: a rollout, $2: its deadline, $3: behind which device, $4 and $5: only that state, only that stage, $6: how many.
SELECT held.device AS name, held.stage, held.reason AS failed, held.message AS words, held.since, now.state, devices.*
FROM rollout_devices AS held
LEFT JOIN devices USING (device)
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN held.state = 'started' AND held.since <= clock_timestamp() - $2::interval THEN 'silent'
        ELSE held.state
    END AS state
) AS now
WHERE held.rollout = $1 AND held.device > $3
  AND ($4::text IS NULL OR now.state = $4)
  AND ($5::integer IS NULL OR held.stage = $5)
ORDER BY held.device LIMIT $6
