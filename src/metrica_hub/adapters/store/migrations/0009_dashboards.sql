-- What dashboards may read: views in a schema of their own, without tokens, secrets, payloads and arguments, for a role
-- that can read nothing else. They are named for what is asked, so that tables may change under them.

CREATE SCHEMA dashboards;

CREATE VIEW dashboards.devices AS
SELECT device,
       CASE
           WHEN flapping_since IS NOT NULL THEN 'flapping'
           WHEN coalesce(hearing, presence) IN ('online', 'heard') THEN 'online'
           WHEN coalesce(hearing, presence) IS NULL AND last_seen_at IS NULL THEN 'never-seen'
           ELSE 'offline'
       END AS connection,
       role, tags, mode, phase, commit, release, wanted_commit, reason, message,
       refused_commit, refused_reason, refused_message,
       agent_version, stop_level, stop_done, flapping_since, jsonb_array_length(claimants) AS claimants,
       devices.first_seen_at, last_seen_at, status_at, uptime_s,
       greatest(0, last_seq - stored_seq) AS records_to_come
FROM devices LEFT JOIN streams USING (device, stream);

COMMENT ON COLUMN dashboards.devices.connection IS 'As connection_of in decisions/fleet_state.py.';
COMMENT ON COLUMN dashboards.devices.records_to_come IS
    'Of its newest outbox: how many it had written when it last said so, less those that are stored.';

CREATE VIEW dashboards.events AS
SELECT cursor, device, kind, reason, message, commit, release, at, received_at, uptime_s FROM events;

CREATE VIEW dashboards.heartbeats_5m AS SELECT * FROM heartbeats_5m;
CREATE VIEW dashboards.heartbeats_1h AS SELECT * FROM heartbeats_1h;

CREATE VIEW dashboards.dead_letters AS
SELECT received_at, topic, device, reason, explanation, payload_bytes FROM dead_letters;

CREATE VIEW dashboards.heads AS SELECT branch, commit, seen_at, read_commit, problems FROM heads;

CREATE VIEW dashboards.rollouts AS
SELECT id, commit, previous, begun_at, changed_at, ended_at,
       course ->> 'state' AS state, course ->> 'reason' AS reason, course ->> 'message' AS message,
       (course ->> 'stage')::integer + 1 AS open_stages, jsonb_array_length(stages) AS stages
FROM rollouts;

CREATE VIEW dashboards.rollout_devices AS
SELECT rollout, device, stage, rollouts.stages -> stage ->> 'name' AS stage_name, state, reason, message, since
FROM rollout_devices JOIN rollouts ON rollouts.id = rollout;

CREATE VIEW dashboards.stop_orders AS
SELECT number, issued_at, received_at, via, given_by,
       coalesce((SELECT string_agg((stop ->> 'level') || ' ' || coalesce(stop ->> 'scope', 'fleet'), ', ')
                 FROM jsonb_array_elements(stops) AS stop), 'resume') AS what
FROM stop_orders;

CREATE VIEW dashboards.commands AS
SELECT id, device, verb, state, reason, message, created_by, created_at, ended_at FROM commands;

-- dashboards.allow(role): let it read them. Whoever has made the role after this step calls it once, as the database's owner.
CREATE FUNCTION dashboards.allow(reader name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA dashboards TO %I', reader);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA dashboards TO %I', reader);
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'grafana') THEN
        PERFORM dashboards.allow('grafana');
    END IF;
END
$$;
