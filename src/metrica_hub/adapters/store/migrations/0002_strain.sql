-- What strains a device: its tightest filesystem by name and in inodes, memory pressure, supply and heat apart.

ALTER TABLE devices
    ADD COLUMN memory_pressure_some_ratio double precision,
    ADD COLUMN memory_pressure_full_ratio double precision,
    ADD COLUMN disk_path text,
    ADD COLUMN inodes_total bigint,
    ADD COLUMN inodes_free bigint,
    ADD COLUMN under_voltage boolean,
    ADD COLUMN frequency_capped boolean,
    ADD COLUMN soft_temperature_limit boolean;

ALTER TABLE heartbeats
    ADD COLUMN memory_pressure_some_ratio double precision,
    ADD COLUMN memory_pressure_full_ratio double precision,
    ADD COLUMN disk_path text,
    ADD COLUMN inodes_total bigint,
    ADD COLUMN inodes_free bigint,
    ADD COLUMN under_voltage boolean,
    ADD COLUMN frequency_capped boolean,
    ADD COLUMN soft_temperature_limit boolean;
