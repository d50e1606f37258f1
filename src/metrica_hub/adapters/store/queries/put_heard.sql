INSERT INTO devices AS held (device, last_seen_at)
SELECT * FROM unnest($1::text[], $2::timestamptz[])
ON CONFLICT (device) DO UPDATE SET
    last_seen_at = greatest(held.last_seen_at, excluded.last_seen_at),
    change = nextval('device_changes')
