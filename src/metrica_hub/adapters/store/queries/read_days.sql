-- $1: kinds of events that are trouble. The hours are those of the clock; the one that goes on is bit 23.
WITH day AS MATERIALIZED (
    SELECT date_trunc('hour', now()) - interval '23 hours' AS since,
           (SELECT coalesce(max(upto), '-infinity') FROM summed) AS upto
)
SELECT device, bit_or(heard)::integer AS heard, bit_or(troubled)::integer AS troubled
FROM (
    SELECT device, 1 << (extract(epoch FROM begins - since) / 3600)::integer AS heard, 0 AS troubled
    FROM day, heartbeats_1h_sums WHERE begins >= since AND begins <= now()
    UNION ALL
    SELECT device, 1 << floor(extract(epoch FROM received_at - since) / 3600)::integer, 0
    FROM day, heartbeats WHERE received_at >= greatest(since, upto) AND received_at <= now()
    UNION ALL
    SELECT device, 0, 1 << floor(extract(epoch FROM received_at - since) / 3600)::integer
    FROM day, events
    WHERE received_at >= since AND received_at <= now() AND kind = ANY($1::text[])
        -- By the index, back from the newest: events are not sorted by anything else.
        AND cursor > coalesce((SELECT cursor FROM events, day WHERE received_at < since ORDER BY cursor DESC LIMIT 1), 0)
) AS hours
GROUP BY device
