-- As decisions.fleet_state.selects means it.
SELECT {columns} FROM devices
WHERE device > $1
    AND ($3::text IS NULL OR role = $3)
    AND ($4::text IS NULL OR $4 = ANY (tags))
    AND ($5::text IS NULL OR mode = $5)
    AND ($6::text IS NULL OR starts_with(release, $6) OR starts_with(commit, $6))
    AND ($7::boolean IS NULL OR $7 = (flapping_since IS NULL AND coalesce(hearing, presence, '') NOT IN ('online', 'heard')))
    AND ($8::text IS NULL OR strpos(device, $8) > 0 OR strpos(role, $8) > 0
        OR EXISTS (SELECT FROM unnest(tags) AS tag WHERE strpos(tag, $8) > 0))
ORDER BY device
LIMIT $2
