-- What is stored of some streams, and the database's time: at least one row, of nulls but for the time.
SELECT clock.at, device, stream, stored_seq, ahead::text AS ahead
FROM (SELECT clock_timestamp() AS at) AS clock
LEFT JOIN (streams JOIN unnest($1::text[], $2::uuid[]) AS asked (device, stream) USING (device, stream)) ON true
