-- $1: width, $2 and $3: what was stored from then until before then, $4: how late one may come.
INSERT INTO {table} AS held
SELECT
    device,
    date_bin($1::interval, CASE
        -- The device's own clock, where it is known and plausible: what comes late belongs to when it was.
        WHEN at BETWEEN received_at - $4::interval AND received_at + interval '5 minutes' THEN at
        ELSE received_at
    END, 'epoch') AS begins,
    count(*),
    coalesce(sum(load_1m), 0), count(load_1m),
    coalesce(sum(memory_available_bytes), 0), count(memory_available_bytes), min(memory_available_bytes),
    coalesce(sum(disk_free_bytes), 0), count(disk_free_bytes), min(disk_free_bytes),
    coalesce(sum(temperature_celsius), 0), count(temperature_celsius), max(temperature_celsius),
    bool_or(throttled)
FROM heartbeats
WHERE received_at >= $2 AND received_at < $3
GROUP BY device, begins
ORDER BY device, begins
ON CONFLICT (device, begins) DO UPDATE SET
    heartbeats = held.heartbeats + excluded.heartbeats,
    load_1m_sum = held.load_1m_sum + excluded.load_1m_sum,
    load_1m_count = held.load_1m_count + excluded.load_1m_count,
    memory_available_bytes_sum = held.memory_available_bytes_sum + excluded.memory_available_bytes_sum,
    memory_available_bytes_count = held.memory_available_bytes_count + excluded.memory_available_bytes_count,
    memory_available_bytes_min = least(held.memory_available_bytes_min, excluded.memory_available_bytes_min),
    disk_free_bytes_sum = held.disk_free_bytes_sum + excluded.disk_free_bytes_sum,
    disk_free_bytes_count = held.disk_free_bytes_count + excluded.disk_free_bytes_count,
    disk_free_bytes_min = least(held.disk_free_bytes_min, excluded.disk_free_bytes_min),
    temperature_celsius_sum = held.temperature_celsius_sum + excluded.temperature_celsius_sum,
    temperature_celsius_count = held.temperature_celsius_count + excluded.temperature_celsius_count,
    temperature_celsius_max = greatest(held.temperature_celsius_max, excluded.temperature_celsius_max),
    throttled = (held.throttled OR excluded.throttled)
