UPDATE devices SET
    hearing = new.hearing,
    hearing_at = new.hearing_at,
    flapping_since = new.flapping_since,
    claimed_since = new.claimed_since,
    claimants = new.claimants,
    change = nextval('device_changes')
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::jsonb[])
     AS new (device, hearing, hearing_at, flapping_since, claimed_since, claimants)
WHERE devices.device = new.device
