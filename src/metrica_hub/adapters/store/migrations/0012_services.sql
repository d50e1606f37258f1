-- What runs on each device, as it said last: one row a device, beside devices, which every list reads whole.

CREATE TABLE services (
    device         text PRIMARY KEY,
    received_at    timestamptz NOT NULL,
    boot_id        text NOT NULL,
    uptime_s       double precision NOT NULL,
    engine_answers boolean NOT NULL,
    services       jsonb NOT NULL,
    untold         bigint NOT NULL
);

COMMENT ON COLUMN services.services IS 'At most 50, as metrica_fleet.messages.Service; a message of the bus is at most 64 KiB.';
COMMENT ON COLUMN services.untold IS 'How many more there are.';
