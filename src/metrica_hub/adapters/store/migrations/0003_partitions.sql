-- Tables that grow are cut by time, so that what is old goes by dropping a table. What is stored of a stream is kept
-- with it (decisions/coverage.py): no unique index has to tell whether a record came before.

ALTER TABLE streams ADD COLUMN ahead int8multirange NOT NULL DEFAULT '{}';
COMMENT ON COLUMN streams.ahead IS 'Numbers beyond stored_seq, behind a gap, that are stored as well.';

-- What stands there from before is behind no gap but its own: number by number.
UPDATE streams SET ahead = known.ahead
FROM (
    SELECT device, stream, range_agg(int8range(seq, seq + 1)) AS ahead
    FROM (SELECT device, stream, seq FROM heartbeats
          UNION SELECT device, stream, seq FROM events
          UNION SELECT device, stream, seq FROM dead_letters WHERE seq IS NOT NULL) AS records
    JOIN streams USING (device, stream)
    WHERE seq > stored_seq
    GROUP BY device, stream
) AS known
WHERE known.device = streams.device AND known.stream = streams.stream;

-- make_partition(table, name, from, until): true when it was made, false when it was there. Attached afterwards, so
-- that those who write to the table wait for nothing.
CREATE FUNCTION make_partition(parent text, name text, begins timestamptz, ends timestamptz) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(quote_ident(name))) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I (LIKE %I INCLUDING DEFAULTS INCLUDING STORAGE)', name, parent);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, name, begins, ends);
    RETURN true;
END
$$;

ALTER TABLE heartbeats RENAME TO heartbeats_before;
ALTER TABLE heartbeats_before DROP CONSTRAINT heartbeats_pkey;
CREATE TABLE heartbeats (LIKE heartbeats_before INCLUDING DEFAULTS) PARTITION BY RANGE (received_at);
CREATE INDEX heartbeats_device ON heartbeats (device, received_at);
CREATE INDEX heartbeats_received ON heartbeats USING brin (received_at) WITH (pages_per_range = 32);
COMMENT ON COLUMN heartbeats.received_at IS 'When it was stored, by the database''s clock: never before what was committed earlier.';

ALTER TABLE events RENAME TO events_before;
ALTER TABLE events_before DROP CONSTRAINT events_pkey;
DROP INDEX events_cursor, events_device_cursor;
CREATE SEQUENCE event_cursors;
CREATE TABLE events (LIKE events_before INCLUDING DEFAULTS) PARTITION BY RANGE (received_at);
ALTER TABLE events ALTER COLUMN cursor SET DEFAULT nextval('event_cursors');
ALTER SEQUENCE event_cursors OWNED BY events.cursor;
CREATE INDEX events_cursor ON events (cursor);
CREATE INDEX events_device_cursor ON events (device, cursor);

ALTER TABLE dead_letters RENAME TO dead_letters_before;
ALTER TABLE dead_letters_before DROP CONSTRAINT dead_letters_pkey;
DROP INDEX dead_letters_record;
ALTER TABLE dead_letters_before DROP COLUMN number;
CREATE TABLE dead_letters (LIKE dead_letters_before INCLUDING DEFAULTS) PARTITION BY RANGE (received_at);
COMMENT ON COLUMN dead_letters.payload IS 'The first 64 KiB of it, exactly as received; payload_bytes is its whole length.';
CREATE INDEX dead_letters_received ON dead_letters (received_at);

DO $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT name, cut, begins, begins + ('1 ' || cut)::interval AS ends,
               name || '_' || to_char(begins AT TIME ZONE 'UTC', CASE cut WHEN 'day' THEN 'YYYYMMDD' ELSE 'YYYYMM' END)
                   AS part_name
        FROM (SELECT DISTINCT 'heartbeats' AS name, 'day' AS cut, date_trunc('day', received_at, 'UTC') AS begins
              FROM heartbeats_before
              UNION SELECT 'events', 'month', date_trunc('month', received_at, 'UTC') FROM events_before
              UNION SELECT 'dead_letters', 'month', date_trunc('month', received_at, 'UTC') FROM dead_letters_before
             ) AS parts
    LOOP
        PERFORM make_partition(part.name, part.part_name, part.begins, part.ends);
    END LOOP;
END
$$;

INSERT INTO heartbeats SELECT * FROM heartbeats_before;
INSERT INTO events SELECT * FROM events_before;
SELECT setval('event_cursors', max(cursor)) FROM events_before HAVING max(cursor) IS NOT NULL;
INSERT INTO dead_letters SELECT * FROM dead_letters_before;
DROP TABLE heartbeats_before, events_before, dead_letters_before;

-- What is kept of heartbeats for long plots: sums of 5 minutes and of an hour, by the device's clock where it is known
-- and near ours, else by ours. Sums and not means, so that what arrives late is added.
CREATE TABLE heartbeats_5m_sums (
    device                      text NOT NULL,
    begins                      timestamptz NOT NULL,
    heartbeats                  bigint NOT NULL,
    load_1m_sum                 double precision NOT NULL,
    load_1m_count               bigint NOT NULL,
    memory_available_bytes_sum  double precision NOT NULL,
    memory_available_bytes_count bigint NOT NULL,
    memory_available_bytes_min  bigint,
    disk_free_bytes_sum         double precision NOT NULL,
    disk_free_bytes_count       bigint NOT NULL,
    disk_free_bytes_min         bigint,
    temperature_celsius_sum     double precision NOT NULL,
    temperature_celsius_count   bigint NOT NULL,
    temperature_celsius_max     double precision,
    throttled                   boolean,
    PRIMARY KEY (device, begins)
) PARTITION BY RANGE (begins);

CREATE TABLE heartbeats_1h_sums (LIKE heartbeats_5m_sums INCLUDING ALL) PARTITION BY RANGE (begins);

DO $$
DECLARE
    width text;
BEGIN
    FOREACH width IN ARRAY ARRAY['5m', '1h'] LOOP
        EXECUTE format('CREATE VIEW %I AS
            SELECT device, begins, heartbeats,
                   load_1m_sum / nullif(load_1m_count, 0) AS load_1m,
                   memory_available_bytes_sum / nullif(memory_available_bytes_count, 0) AS memory_available_bytes,
                   memory_available_bytes_min,
                   disk_free_bytes_sum / nullif(disk_free_bytes_count, 0) AS disk_free_bytes,
                   disk_free_bytes_min,
                   temperature_celsius_sum / nullif(temperature_celsius_count, 0) AS temperature_celsius,
                   temperature_celsius_max,
                   throttled
            FROM %I', 'heartbeats_' || width, 'heartbeats_' || width || '_sums');
    END LOOP;
END
$$;

-- How far heartbeats are summed up.
CREATE TABLE summed (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    upto     timestamptz NOT NULL
);
