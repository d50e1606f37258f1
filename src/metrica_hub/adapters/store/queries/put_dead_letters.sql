INSERT INTO dead_letters (received_at, topic, device, stream, seq, reason, explanation, payload, payload_bytes)
SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::uuid[], $5::bigint[], $6::text[], $7::text[],
                     $8::bytea[], $9::bigint[])
