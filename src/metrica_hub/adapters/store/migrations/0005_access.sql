-- Who may ask the hub what, who did what, and who is told of events.

CREATE TABLE tokens (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL,
    role         text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    digest       bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    created_at   timestamptz NOT NULL DEFAULT now(),
    created_by   text NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);

COMMENT ON COLUMN tokens.digest IS 'SHA-256 of the token, which has 256 bits of chance and is kept nowhere.';
COMMENT ON COLUMN tokens.last_used_at IS 'To the hour.';
CREATE UNIQUE INDEX tokens_name ON tokens (name) WHERE revoked_at IS NULL;

-- Of browsers that signed in with a token. They end with it.
CREATE TABLE sessions (
    digest     bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    token      bigint NOT NULL REFERENCES tokens ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);

CREATE INDEX sessions_token ON sessions (token);

CREATE TABLE trail (
    number     bigint PRIMARY KEY,
    at         timestamptz NOT NULL,
    actor      text NOT NULL,
    role       text NOT NULL,
    via        text NOT NULL,
    token      bigint,
    remote     text NOT NULL,
    action     text NOT NULL,
    subject    text NOT NULL,
    detail     text NOT NULL,
    request_id text NOT NULL,
    seal       bytea NOT NULL CHECK (octet_length(seal) = 32)
);

COMMENT ON TABLE trail IS 'Who did what. Each seal is the SHA-256 of the seal before it and of the row''s content.';
COMMENT ON COLUMN trail.detail IS 'A JSON object, as text: the seal is over these bytes.';

CREATE FUNCTION trail_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the trail is written once: no % of it', lower(TG_OP) USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER trail_stays BEFORE UPDATE OR DELETE ON trail FOR EACH ROW EXECUTE FUNCTION trail_stays();
CREATE TRIGGER trail_stays_whole BEFORE TRUNCATE ON trail EXECUTE FUNCTION trail_stays();

-- What was answered to requests with an Idempotency-Key, for a day.

CREATE TABLE repeats (
    digest      bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    begun_at    timestamptz NOT NULL DEFAULT now(),
    status      integer,
    location    text,
    body        bytea
);

COMMENT ON COLUMN repeats.status IS 'NULL: it goes on, or its hub ended in the middle.';
COMMENT ON COLUMN repeats.body IS 'NULL: there was none, or it was a secret, which is shown once.';
CREATE INDEX repeats_begun_at ON repeats (begun_at);

-- Who is told of events, and how far.

CREATE TABLE webhooks (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url           text NOT NULL,
    kinds         text[] NOT NULL,
    secret        text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    created_by    text NOT NULL,
    cursor        bigint NOT NULL,
    told_at       timestamptz,
    failing_since timestamptz,
    attempts      integer NOT NULL DEFAULT 0,
    next_at       timestamptz NOT NULL DEFAULT now(),
    failure       text,
    disabled_at   timestamptz
);

COMMENT ON COLUMN webhooks.secret IS 'Each message is signed with it; its receiver has it too.';
COMMENT ON COLUMN webhooks.cursor IS 'Of the last event that was told, or that is none of the kinds.';
