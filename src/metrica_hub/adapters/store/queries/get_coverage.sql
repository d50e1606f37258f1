SELECT device, stream, stored_seq, ahead::text AS ahead
FROM streams JOIN unnest($1::text[], $2::uuid[]) AS asked (device, stream) USING (device, stream)
