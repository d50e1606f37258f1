-- The emergency stop: every order that was heard or given here, and how far each device is stopped.

CREATE TABLE stop_orders (
    number      bigint PRIMARY KEY CHECK (number > 0),
    issued_at   timestamptz NOT NULL,
    stops       jsonb NOT NULL,
    text        text NOT NULL,
    signature   text NOT NULL,
    via         text NOT NULL CHECK (via IN ('api', 'bus')),
    given_by    text,
    received_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE stop_orders IS 'The order of the highest number is in force. Whose signature it is, each device judges for itself.';
COMMENT ON COLUMN stop_orders.text IS 'The exact text that was signed; stops says the same, to be read.';
COMMENT ON COLUMN stop_orders.given_by IS 'Whose token brought it; null: it was published at the broker.';

ALTER TABLE devices
    ADD COLUMN stop_number bigint,
    ADD COLUMN stop_level text,
    ADD COLUMN stop_source text,
    ADD COLUMN stop_done boolean;

COMMENT ON COLUMN devices.stop_number IS 'Of the newest stop order that the device knows; null: it never heard of any.';
