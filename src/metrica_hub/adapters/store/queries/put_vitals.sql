-- $20: said in a status, so of the boot that runs; a heartbeat of another boot is backlog and says nothing of now.
INSERT INTO devices AS held
    (device, boot_id, uptime_s, load_1m, memory_total_bytes, memory_available_bytes, disk_total_bytes,
     disk_free_bytes, temperature_celsius, throttled, clock_synchronised, memory_pressure_some_ratio,
     memory_pressure_full_ratio, disk_path, inodes_total, inodes_free, under_voltage, frequency_capped,
     soft_temperature_limit)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
ON CONFLICT (device) DO UPDATE SET
    boot_id = excluded.boot_id,
    uptime_s = excluded.uptime_s,
    load_1m = excluded.load_1m,
    memory_total_bytes = excluded.memory_total_bytes,
    memory_available_bytes = excluded.memory_available_bytes,
    disk_total_bytes = excluded.disk_total_bytes,
    disk_free_bytes = excluded.disk_free_bytes,
    temperature_celsius = excluded.temperature_celsius,
    throttled = excluded.throttled,
    clock_synchronised = excluded.clock_synchronised,
    memory_pressure_some_ratio = excluded.memory_pressure_some_ratio,
    memory_pressure_full_ratio = excluded.memory_pressure_full_ratio,
    disk_path = excluded.disk_path,
    inodes_total = excluded.inodes_total,
    inodes_free = excluded.inodes_free,
    under_voltage = excluded.under_voltage,
    frequency_capped = excluded.frequency_capped,
    soft_temperature_limit = excluded.soft_temperature_limit,
    change = nextval('device_changes')
WHERE held.boot_id IS NULL
   OR (held.boot_id = excluded.boot_id AND excluded.uptime_s >= held.uptime_s)
   OR ($20::boolean AND held.boot_id <> excluded.boot_id)
