-- Who devices are to the bus. A person invites a device by a token; the device asks with it for a certificate of its key.

CREATE TABLE enrolments (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device       text NOT NULL,
    digest       bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    created_at   timestamptz NOT NULL DEFAULT now(),
    created_by   text NOT NULL,
    expires_at   timestamptz NOT NULL,
    used_at      timestamptz,
    withdrawn_at timestamptz
);

COMMENT ON COLUMN enrolments.digest IS 'SHA-256 of the token, which has 256 bits of chance and is kept nowhere.';
CREATE INDEX enrolments_device ON enrolments (device) WHERE used_at IS NULL;

CREATE TABLE certificates (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    serial      text NOT NULL UNIQUE,
    device      text NOT NULL,
    spki        bytea NOT NULL CHECK (octet_length(spki) = 32),
    fingerprint text NOT NULL UNIQUE,
    pem         text NOT NULL,
    recipient   text NOT NULL,
    not_before  timestamptz NOT NULL,
    not_after   timestamptz NOT NULL,
    issued_at   timestamptz NOT NULL DEFAULT now(),
    enrolment   bigint UNIQUE REFERENCES enrolments,
    renews      text UNIQUE REFERENCES certificates (serial),
    revoked_at  timestamptz,
    revoked_for text,
    CHECK (num_nonnulls(enrolment, renews) = 1)
);

COMMENT ON COLUMN certificates.spki IS 'SHA-256 of the public key: who asks twice for one key is answered alike.';
COMMENT ON COLUMN certificates.recipient IS 'The public half of the age key that the device''s secrets are encrypted to.';
CREATE INDEX certificates_device ON certificates (device, number DESC);
CREATE INDEX certificates_revoked ON certificates (serial) WHERE revoked_at IS NOT NULL;
