INSERT INTO events
    (device, stream, seq, received_at, at, boot_id, uptime_s, kind, reason, message, commit, release, detail)
SELECT device, stream, seq, received_at, at, boot_id, uptime_s, kind, reason, message, commit, release, detail
FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::text[],
            $7::double precision[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::jsonb[])
     WITH ORDINALITY AS new (device, stream, seq, received_at, at, boot_id, uptime_s, kind, reason, message, commit,
                             release, detail, place)
ORDER BY place
