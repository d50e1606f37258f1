-- What a batch writes, as functions of the session: they come with the code and go with the connection, so that hubs of
-- different versions may share a database. A function takes a new snapshot for each of its statements: what is read
-- after the lock is as the one who held it before left it.

-- Writes what nearly every batch has; all of it may have come before but for heartbeats.
CREATE OR REPLACE FUNCTION pg_temp.put_batch(batch jsonb, stored_at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    beat heartbeats;
BEGIN
    beat.received_at := stored_at;
    INSERT INTO heartbeats SELECT * FROM jsonb_populate_recordset(beat, batch -> 'heartbeats');

    INSERT INTO streams AS held (device, stream, stored_seq, ahead)
    SELECT device, stream, stored_seq, ahead
    FROM jsonb_to_recordset(batch -> 'streams') AS new (device text, stream uuid, stored_seq bigint, ahead int8multirange)
    ON CONFLICT (device, stream) DO UPDATE SET
        stored_seq = excluded.stored_seq, ahead = excluded.ahead, updated_at = now()
    WHERE (held.stored_seq, held.ahead) IS DISTINCT FROM (excluded.stored_seq, excluded.ahead);

    -- A status replaces the one before, unless it is an older one of the same boot.
    INSERT INTO devices AS held
        (device, role, tags, mode, commit, release, wanted_commit, phase, reason, message, refused_commit,
        refused_reason, refused_message, status_at, status_boot_id, status_uptime_s, agent_version, stream,
        last_seq, heartbeat_s, stop_number, stop_level, stop_source, stop_done, wanted_agent, agent_reason,
        agent_message)
    SELECT device, role, tags, mode, commit, release, wanted_commit, phase, reason, message, refused_commit,
           refused_reason, refused_message, status_at, status_boot_id, status_uptime_s, agent_version, stream,
           last_seq, heartbeat_s, stop_number, stop_level, stop_source, stop_done, wanted_agent, agent_reason,
           agent_message
    FROM jsonb_populate_recordset(null::devices, batch -> 'statuses')
    ON CONFLICT (device) DO UPDATE SET
        role = excluded.role,
        tags = excluded.tags,
        mode = excluded.mode,
        commit = excluded.commit,
        release = excluded.release,
        wanted_commit = excluded.wanted_commit,
        phase = excluded.phase,
        reason = excluded.reason,
        message = excluded.message,
        refused_commit = excluded.refused_commit,
        refused_reason = excluded.refused_reason,
        refused_message = excluded.refused_message,
        status_at = excluded.status_at,
        status_boot_id = excluded.status_boot_id,
        status_uptime_s = excluded.status_uptime_s,
        agent_version = excluded.agent_version,
        stream = excluded.stream,
        last_seq = excluded.last_seq,
        heartbeat_s = excluded.heartbeat_s,
        stop_number = excluded.stop_number,
        stop_level = excluded.stop_level,
        stop_source = excluded.stop_source,
        stop_done = excluded.stop_done,
        wanted_agent = excluded.wanted_agent,
        agent_reason = excluded.agent_reason,
        agent_message = excluded.agent_message,
        change = nextval('device_changes')
    WHERE held.status_boot_id IS DISTINCT FROM excluded.status_boot_id
       OR excluded.status_uptime_s >= held.status_uptime_s;

    -- When a device was heard, and how it is unless that is older than what is held. begins_boot: of the boot that runs, a
    -- status says so; a heartbeat of another boot is backlog and says nothing of now. (OFFSET 0: each device is looked up,
    -- never all of them read.)
    WITH said AS MATERIALIZED (
        SELECT new.*,
               new.boot_id IS NOT NULL AND (
                   held.boot_id IS NULL
                   OR (held.boot_id = new.boot_id AND new.uptime_s >= held.uptime_s)
                   OR (new.begins_boot AND held.boot_id <> new.boot_id)
               ) AS is_newer
        FROM jsonb_to_recordset(batch -> 'devices') AS new (
               device text, heard_at timestamptz, begins_boot boolean, boot_id text, uptime_s float8,
               load_1m float8, memory_total_bytes int8, memory_available_bytes int8,
               disk_total_bytes int8, disk_free_bytes int8, temperature_celsius float8, throttled
               boolean, clock_synchronised boolean, memory_pressure_some_ratio float8,
               memory_pressure_full_ratio float8, disk_path text, inodes_total int8, inodes_free
               int8, under_voltage boolean, frequency_capped boolean, soft_temperature_limit boolean)
        LEFT JOIN LATERAL (
            SELECT boot_id, uptime_s FROM devices WHERE devices.device = new.device OFFSET 0
        ) AS held ON true
    ),
    told AS (
        INSERT INTO devices AS held
            (device, last_seen_at, boot_id, uptime_s, load_1m, memory_total_bytes, memory_available_bytes, disk_total_bytes, disk_free_bytes, temperature_celsius,
            throttled, clock_synchronised, memory_pressure_some_ratio, memory_pressure_full_ratio, disk_path, inodes_total,
            inodes_free, under_voltage, frequency_capped, soft_temperature_limit)
        SELECT device, heard_at, boot_id, uptime_s, load_1m, memory_total_bytes, memory_available_bytes, disk_total_bytes, disk_free_bytes, temperature_celsius,
               throttled, clock_synchronised, memory_pressure_some_ratio, memory_pressure_full_ratio, disk_path, inodes_total,
               inodes_free, under_voltage, frequency_capped, soft_temperature_limit
        FROM said WHERE is_newer
        ON CONFLICT (device) DO UPDATE SET
            last_seen_at = greatest(held.last_seen_at, excluded.last_seen_at),
            boot_id = excluded.boot_id,
            uptime_s = excluded.uptime_s,
            load_1m = excluded.load_1m,
            memory_total_bytes = excluded.memory_total_bytes,
            memory_available_bytes = excluded.memory_available_bytes,
            disk_total_bytes = excluded.disk_total_bytes,
            disk_free_bytes = excluded.disk_free_bytes,
            temperature_celsius = excluded.temperature_celsius,
            throttled = excluded.throttled,
            clock_synchronised = excluded.clock_synchronised,
            memory_pressure_some_ratio = excluded.memory_pressure_some_ratio,
            memory_pressure_full_ratio = excluded.memory_pressure_full_ratio,
            disk_path = excluded.disk_path,
            inodes_total = excluded.inodes_total,
            inodes_free = excluded.inodes_free,
            under_voltage = excluded.under_voltage,
            frequency_capped = excluded.frequency_capped,
            soft_temperature_limit = excluded.soft_temperature_limit,
            change = nextval('device_changes')
    )
    INSERT INTO devices AS held (device, last_seen_at)
    SELECT device, heard_at FROM said WHERE NOT is_newer AND heard_at IS NOT NULL
    ON CONFLICT (device) DO UPDATE SET
        last_seen_at = greatest(held.last_seen_at, excluded.last_seen_at),
        change = nextval('device_changes');
END
$$;

-- The whole of a batch that was planned on what its streams were remembered to have (was_stored, was_ahead): the time
-- of storing; null, and nothing is written, when that is not what they have.
CREATE OR REPLACE FUNCTION pg_temp.store_batch(batch jsonb, commit_lock bigint) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    stored_at timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(commit_lock);
    IF EXISTS (
        SELECT
        FROM jsonb_to_recordset(batch -> 'streams')
             AS new (device text, stream uuid, was_stored bigint, was_ahead int8multirange)
        LEFT JOIN LATERAL (
            SELECT stored_seq, ahead FROM streams
            WHERE streams.device = new.device AND streams.stream = new.stream OFFSET 0
        ) AS held ON true
        WHERE (held.stored_seq, held.ahead) IS DISTINCT FROM (new.was_stored, new.was_ahead)
    ) THEN
        RETURN null;
    END IF;
    stored_at := clock_timestamp();
    PERFORM pg_temp.put_batch(batch, stored_at);
    RETURN stored_at;
END
$$;
