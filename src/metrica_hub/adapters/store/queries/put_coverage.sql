INSERT INTO streams AS held (device, stream, stored_seq, ahead)
SELECT device, stream, stored_seq, ahead::int8multirange
FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::text[]) AS new (device, stream, stored_seq, ahead)
ON CONFLICT (device, stream) DO UPDATE SET
    stored_seq = excluded.stored_seq, ahead = excluded.ahead, updated_at = now()
WHERE (held.stored_seq, held.ahead) IS DISTINCT FROM (excluded.stored_seq, excluded.ahead)
