-- What runs replaces what was said before, unless it was said no later in the same boot: what the broker gives again
-- changes nothing.
WITH said AS (
    INSERT INTO services AS held (device, received_at, boot_id, uptime_s, engine_answers, services, untold)
    VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7)
    ON CONFLICT (device) DO UPDATE SET
        received_at = excluded.received_at,
        boot_id = excluded.boot_id,
        uptime_s = excluded.uptime_s,
        engine_answers = excluded.engine_answers,
        services = excluded.services,
        untold = excluded.untold
    WHERE held.boot_id <> excluded.boot_id OR held.uptime_s < excluded.uptime_s
    RETURNING device
)
INSERT INTO devices AS held (device) SELECT device FROM said
ON CONFLICT (device) DO UPDATE SET change = nextval('device_changes')
