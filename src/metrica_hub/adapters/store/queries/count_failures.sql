-- $1: a rollout, $2: its deadline. How many devices of each stage failed for the same reason, and the first of them.
SELECT held.stage, why.reason, count(*) AS devices, min(held.device) AS example,
       (array_agg(held.message ORDER BY held.device))[1] AS message
FROM rollout_devices AS held
CROSS JOIN LATERAL (SELECT CASE held.state WHEN 'started' THEN 'silent' ELSE held.reason END AS reason) AS why
WHERE held.rollout = $1
  AND (held.state = 'refused' OR (held.state = 'started' AND held.since <= clock_timestamp() - $2::interval))
GROUP BY held.stage, why.reason ORDER BY held.stage, devices DESC, why.reason
