-- A fleet of :devices that has been at work for a week: every state there is, in a known number of devices.
INSERT INTO devices (device, last_seen_at, presence, presence_reason, presence_at, role, tags, mode, commit, release,
    wanted_commit, phase, reason, message, refused_commit, refused_reason, refused_message, agent_version, boot_id,
    uptime_s, memory_total_bytes, memory_available_bytes, disk_total_bytes, disk_free_bytes, temperature_celsius,
    heartbeat_s)
SELECT 'pi-' || lpad(n::text, 4, '0'), now(),
    CASE state WHEN 'offline' THEN 'offline' ELSE 'online' END, 'connected', now() - interval '3 hours',
    (ARRAY['camera', 'sensor', 'display'])[1 + n % 3], ARRAY['site-' || n % 5],
    CASE WHEN state IN ('safe', 'trial', 'held') THEN state ELSE 'steady' END,
    repeat('a', 40), repeat('b', 64), CASE WHEN state IN ('trial', 'refused') THEN repeat('c', 40) ELSE repeat('a', 40) END,
    CASE WHEN state IN ('trial', 'refused') THEN state ELSE 'confirmed' END,
    CASE state WHEN 'refused' THEN 'unhealthy' WHEN 'held' THEN 'ordered' END,
    CASE state WHEN 'refused' THEN 'service "web" is unhealthy by its own health check' ELSE '' END,
    CASE state WHEN 'refused' THEN repeat('c', 40) END, CASE state WHEN 'refused' THEN 'unhealthy' END,
    CASE state WHEN 'refused' THEN 'service "web" is unhealthy by its own health check' END,
    '0.1.0', 'boot', 100, 4e9, 1e9 + n * 1e6, 32e9, 9e9 + n * 1e6, 45 + n % 20, 3600
FROM (
    SELECT n, CASE n % 100 WHEN 2 THEN 'offline' WHEN 3 THEN 'trial' WHEN 4 THEN 'refused' WHEN 5 THEN 'safe'
                           WHEN 6 THEN 'held' ELSE 'steady' END AS state
    FROM generate_series(1, :devices) AS n
) AS fleet;

SELECT make_partition('heartbeats', 'heartbeats_' || to_char(day, 'YYYYMMDD'), day, day + interval '1 day')
FROM generate_series(date_trunc('day', now()) - interval '7 days', now(), interval '1 day') AS day;
INSERT INTO heartbeats (device, stream, seq, received_at, at, boot_id, uptime_s, mode, load_1m,
    memory_available_bytes, disk_free_bytes, temperature_celsius)
SELECT 'pi-0001', repeat('0', 32)::uuid, n, now() - n * interval '60 seconds', now() - n * interval '60 seconds', 'boot',
    10100 - n, 'steady', abs(sin(n / 300.0)), 1e9 + 5e8 * sin(n / 200.0), 9e9 - n * 1e5, 50 + 10 * sin(n / 700.0)
FROM generate_series(0, 10000) AS n WHERE n NOT BETWEEN 300 AND 500;

-- What runs on the first of them: all is well, but for what crashes; of the tenth the engine is silent.
INSERT INTO services (device, received_at, boot_id, uptime_s, engine_answers, services, untold)
SELECT 'pi-' || lpad(n::text, 4, '0'), now() - interval '20 minutes', 'boot', 90, n <> 10,
    jsonb_build_array(
        jsonb_build_object('name', 'migrate', 'state', 'done', 'exit_code', 0, 'image', 'registry.example.org/camera/migrate:1.4.0'),
        jsonb_build_object('name', 'recorder', 'state', 'restarting', 'exit_code', 3, 'restarts', 41, 'containers', 2,
            'image', 'registry.example.org/camera/recorder:1.4.0@sha256:' || repeat('5f', 32), 'image_id', '5f5f5f5f5f5f',
            'since', now() - interval '20 minutes'),
        jsonb_build_object('name', 'web', 'state', 'running', 'health', 'healthy', 'image', 'registry.example.org/camera/web:1.4.0',
            'image_id', '0c0c0c0c0c0c', 'since', now() - interval '9 hours')),
    0
FROM generate_series(1, 10) AS n;

-- An hour or so of what happens when a bad commit follows a good one.
SELECT make_partition('events', 'events_' || to_char(month, 'YYYYMM'), month, month + interval '1 month')
FROM generate_series(date_trunc('month', now() - interval '2 hours'), now(), interval '1 month') AS month;
INSERT INTO events (device, stream, seq, received_at, at, boot_id, uptime_s, kind, reason, message, commit, detail)
SELECT 'pi-' || lpad(device::text, 4, '0'), repeat('0', 32)::uuid, device * 100 + step, at, at, 'boot', step * 7.5,
    (ARRAY['commit.seen', 'release.staged', 'release.preflighted', 'release.trial_started', 'release.confirmed',
           'commit.seen', 'release.staged', 'release.trial_started', 'release.refused', 'rollback.started',
           'rollback.finished'])[step],
    CASE step WHEN 9 THEN 'unhealthy' END,
    CASE step WHEN 9 THEN 'service "web" is unhealthy by its own health check' ELSE '' END,
    CASE WHEN step BETWEEN 6 AND 9 THEN repeat('c', 40) ELSE repeat('a', 40) END, '{"tries": 2}'
FROM generate_series(1, 40) AS device, generate_series(1, 11) AS step,
    LATERAL (SELECT now() - interval '55 minutes' + step * interval '4 minutes' + device * interval '1 second') AS said (at)
ORDER BY at;

-- A commit that failed in its second stage: 20 canaries, 100 more, the rest.
INSERT INTO rollouts (commit, previous, policy, stages, course, number, begun_at, changed_at, ended_at) VALUES
    (repeat('a', 40), NULL, '{"stages": [{"name": "all", "share": 1.0}]}',
     '[{"name": "all", "threshold": 9007199254740992, "counts": {"confirmed": 1000}}]', '{"stage": 0, "state": "done"}', 1,
     now() - interval '9 hours', now() - interval '8 hours', now() - interval '8 hours'),
    (repeat('c', 40), repeat('a', 40),
     '{"stages": [{"name": "canary", "tags": ["site-1"]}, {"name": "tenth", "share": 0.1, "pause": true}, {"name": "rest", "share": 1.0}]}',
     '[]', '{"stage": 1, "state": "halted", "reason": "failures", "message": "2 of 99 in tenth failed; 1 may"}', 2,
     now() - interval '50 minutes', now() - interval '5 minutes', NULL);
INSERT INTO rollout_devices (rollout, device, stage, state, reason, message, since)
SELECT 2, device, CASE WHEN n <= 20 THEN 0 WHEN n <= 120 THEN 1 ELSE 2 END,
    CASE WHEN n > 110 THEN 'waiting' WHEN phase = 'refused' THEN 'refused' WHEN mode = 'trial' THEN 'started' ELSE 'confirmed' END,
    CASE WHEN n <= 110 THEN refused_reason END, CASE WHEN n <= 110 THEN message ELSE '' END, now() - interval '10 minutes'
FROM (SELECT row_number() OVER (ORDER BY device) AS n, * FROM devices) AS fleet;
UPDATE rollouts SET stages = (
    SELECT jsonb_agg(jsonb_build_object('name', stages.name, 'threshold', stages.at, 'counts', counts) ORDER BY at)
    FROM (SELECT at, (ARRAY['canary', 'tenth', 'rest'])[at + 1] AS name,
              (SELECT jsonb_object_agg(state, devices)
               FROM (SELECT state, count(*) AS devices FROM rollout_devices WHERE rollout = 2 AND stage = at GROUP BY state) AS said)
              AS counts
          FROM generate_series(0, 2) AS at) AS stages
) WHERE id = 2;
