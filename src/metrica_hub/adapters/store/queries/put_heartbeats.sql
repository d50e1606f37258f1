INSERT INTO heartbeats
    (device, stream, seq, received_at, at, boot_id, uptime_s, commit, release, mode, phase, load_1m, memory_total_bytes,
     memory_available_bytes, disk_total_bytes, disk_free_bytes, temperature_celsius, throttled, clock_synchronised,
     memory_pressure_some_ratio, memory_pressure_full_ratio, disk_path, inodes_total, inodes_free, under_voltage, frequency_capped,
     soft_temperature_limit)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::text[],
                     $7::double precision[], $8::bytea[], $9::bytea[], $10::text[], $11::text[],
                     $12::double precision[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[],
                     $17::double precision[], $18::boolean[], $19::boolean[],
                     $20::double precision[], $21::double precision[], $22::text[], $23::bigint[], $24::bigint[],
                     $25::boolean[], $26::boolean[], $27::boolean[])
