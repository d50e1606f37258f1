-- $1: a rollout. How many devices of each stage wait and say the same.
SELECT held.stage, devices.presence, devices.hearing, min(devices.last_seen_at) AS last_seen_at,
       min(devices.flapping_since) AS flapping_since, devices.mode, devices.wanted_commit, devices.reason,
       count(*) AS devices
FROM rollout_devices AS held LEFT JOIN devices USING (device)
WHERE held.rollout = $1 AND held.state = 'waiting'
GROUP BY held.stage, devices.presence, devices.hearing, devices.last_seen_at IS NULL, devices.flapping_since IS NULL,
         devices.mode, devices.wanted_commit, devices.reason
