-- Where COPY puts heartbeats: no key, so nothing there can conflict. Lives as long as the connection.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_heartbeats ON COMMIT DELETE ROWS AS
SELECT
     device, stream, seq, received_at, at, boot_id, uptime_s, commit, release, mode, phase, load_1m, memory_total_bytes,
     memory_available_bytes, disk_total_bytes, disk_free_bytes, temperature_celsius, throttled, clock_synchronised,
     memory_pressure_some_ratio, memory_pressure_full_ratio, disk_path, inodes_total, inodes_free, under_voltage, frequency_capped,
     soft_temperature_limit
FROM heartbeats WITH NO DATA
