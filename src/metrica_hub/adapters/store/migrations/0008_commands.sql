-- What operators told devices to do: it waits here until its device is there, and what was answered stays for a while.

CREATE TABLE commands (
    id              bigint PRIMARY KEY,
    device          text NOT NULL,
    verb            text NOT NULL,
    arguments       jsonb NOT NULL,
    timeout_s       double precision NOT NULL,
    state           text NOT NULL DEFAULT 'queued' CHECK (
        state IN ('queued', 'sent', 'running', 'done', 'failed', 'refused', 'expired', 'cancelled')),
    reason          text,
    message         text NOT NULL DEFAULT '',
    created_by      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL,
    sent_at         timestamptz,
    sent_connection bigint,
    begun_at        timestamptz,
    ended_at        timestamptz,
    parts           bigint NOT NULL DEFAULT 0,
    signed          bytea
);

COMMENT ON COLUMN commands.id IS
    'The number that the device knows it by: the last one and 1, or the time in milliseconds, whichever is more. So a
     database that is restored from a copy gives no number again that a device has met.';
COMMENT ON COLUMN commands.sent_connection IS 'The connection of the device over which it was sent last.';
COMMENT ON COLUMN commands.parts IS 'How many parts the device says that its answer has.';
COMMENT ON COLUMN commands.signed IS 'As it travels: it is signed once, and sent again as it is.';
CREATE INDEX commands_open ON commands (id) WHERE state IN ('queued', 'sent', 'running');
CREATE INDEX commands_device ON commands (device, id);
CREATE INDEX commands_ended ON commands (ended_at);

CREATE TABLE command_parts (
    command     bigint NOT NULL REFERENCES commands (id) ON DELETE CASCADE,
    part        bigint NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    lines       jsonb NOT NULL,
    data        bytea NOT NULL,
    bytes       bigint NOT NULL,
    PRIMARY KEY (command, part)
);
