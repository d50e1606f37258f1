-- $1: device, $2: since, $3: width, $4: how late a heartbeat may come; {sums}: what is summed up already, as wide.
WITH known AS MATERIALIZED (SELECT coalesce(max(upto), '-infinity') AS upto FROM summed)
SELECT
    begins,
    sum(heartbeats)::bigint AS heartbeats,
    sum(load_1m_sum) / nullif(sum(load_1m_count), 0) AS load_1m,
    min(memory_available_bytes_min) AS memory_available_bytes,
    min(disk_free_bytes_min) AS disk_free_bytes,
    max(temperature_celsius_max) AS temperature_celsius,
    bool_or(throttled) AS throttled
FROM (
    SELECT begins, heartbeats, load_1m_sum, load_1m_count, memory_available_bytes_min, disk_free_bytes_min,
           temperature_celsius_max, throttled
    FROM {sums}
    WHERE device = $1 AND begins >= $2
    UNION ALL
    SELECT date_bin($3::interval, CASE
               WHEN at BETWEEN received_at - $4::interval AND received_at + interval '5 minutes' THEN at
               ELSE received_at
           END, 'epoch') AS begins,
           count(*), sum(load_1m), count(load_1m), min(memory_available_bytes), min(disk_free_bytes),
           max(temperature_celsius), bool_or(throttled)
    FROM heartbeats
    WHERE device = $1 AND received_at >= greatest($2, {upto})
    GROUP BY 1
) AS parts
WHERE begins >= $2
GROUP BY begins
ORDER BY begins
