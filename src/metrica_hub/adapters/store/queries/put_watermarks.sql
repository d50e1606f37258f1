-- A watermark is true for good, so the larger of two is right whoever wrote first.
INSERT INTO streams AS held (device, stream, stored_seq)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::bigint[])
ON CONFLICT (device, stream) DO UPDATE SET stored_seq = excluded.stored_seq, updated_at = now()
WHERE held.stored_seq < excluded.stored_seq
