-- What devices said, what is known of them, and how far each stream is stored.
-- Tables that grow (heartbeats, events, dead_letters) carry received_at, by which a later migration partitions them.

CREATE SEQUENCE device_changes;

CREATE TABLE devices (
    device                 text PRIMARY KEY,
    first_seen_at          timestamptz NOT NULL DEFAULT now(),
    last_seen_at           timestamptz,
    change                 bigint NOT NULL DEFAULT nextval('device_changes'),

    presence               text CHECK (presence IN ('online', 'offline')),
    presence_reason        text,
    presence_connection    bigint,
    presence_boot_id       text,
    presence_at            timestamptz,

    role                   text,
    tags                   text[] NOT NULL DEFAULT '{}',
    mode                   text,
    commit                 text,
    release                text,
    wanted_commit          text,
    phase                  text,
    reason                 text,
    message                text NOT NULL DEFAULT '',
    refused_commit         text,
    refused_reason         text,
    refused_message        text,
    status_at              timestamptz,
    status_boot_id         text,
    status_uptime_s        double precision,
    agent_version          text,
    stream                 uuid,
    last_seq               bigint,

    -- Where on the device's own time line the vitals below stand.
    boot_id                text,
    uptime_s               double precision,

    load_1m                double precision,
    memory_total_bytes     bigint,
    memory_available_bytes bigint,
    disk_total_bytes       bigint,
    disk_free_bytes        bigint,
    temperature_celsius    double precision,
    throttled              boolean,
    clock_synchronised     boolean
);

ALTER SEQUENCE device_changes OWNED BY devices.change;
CREATE UNIQUE INDEX devices_change ON devices (change);

CREATE TABLE streams (
    device        text NOT NULL,
    stream        uuid NOT NULL,
    stored_seq    bigint NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device, stream)
);

COMMENT ON COLUMN streams.stored_seq IS
    'Every record of the stream up to here is stored, or set aside in dead_letters under its number.';

CREATE TABLE heartbeats (
    device                 text NOT NULL,
    stream                 uuid NOT NULL,
    seq                    bigint NOT NULL,
    received_at            timestamptz NOT NULL,
    at                     timestamptz,
    boot_id                text NOT NULL,
    uptime_s               double precision NOT NULL,
    commit                 bytea,
    release                bytea,
    mode                   text NOT NULL,
    phase                  text,
    load_1m                double precision,
    memory_total_bytes     bigint,
    memory_available_bytes bigint,
    disk_total_bytes       bigint,
    disk_free_bytes        bigint,
    temperature_celsius    double precision,
    throttled              boolean,
    clock_synchronised     boolean,
    PRIMARY KEY (device, stream, seq)
);

CREATE TABLE events (
    cursor      bigint GENERATED ALWAYS AS IDENTITY,
    device      text NOT NULL,
    stream      uuid NOT NULL,
    seq         bigint NOT NULL,
    received_at timestamptz NOT NULL,
    at          timestamptz,
    boot_id     text NOT NULL,
    uptime_s    double precision NOT NULL,
    kind        text NOT NULL,
    reason      text,
    message     text NOT NULL,
    commit      text,
    release     text,
    detail      jsonb NOT NULL,
    PRIMARY KEY (device, stream, seq)
);

CREATE UNIQUE INDEX events_cursor ON events (cursor);
CREATE INDEX events_device_cursor ON events (device, cursor);

CREATE TABLE dead_letters (
    number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at   timestamptz NOT NULL,
    topic         text NOT NULL,
    device        text,
    stream        uuid,
    seq           bigint,
    reason        text NOT NULL,
    explanation   text NOT NULL,
    payload       bytea NOT NULL,
    payload_bytes bigint NOT NULL
);

COMMENT ON COLUMN dead_letters.payload IS 'The first 64 KiB of it, exactly as received; payload_bytes is its whole length.';
CREATE UNIQUE INDEX dead_letters_record ON dead_letters (device, stream, seq) WHERE seq IS NOT NULL;

CREATE TABLE heads (
    branch  text PRIMARY KEY,
    commit  text NOT NULL,
    number  bigint NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON COLUMN heads.number IS 'Rises by one each time the branch is seen at another commit.';
