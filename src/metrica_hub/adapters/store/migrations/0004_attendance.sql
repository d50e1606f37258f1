-- What the hub that leads concludes about a device beside its own words, which stay in the presence columns.

ALTER TABLE devices
    ADD COLUMN heartbeat_s double precision,
    ADD COLUMN hearing text CHECK (hearing IN ('silent', 'heard')),
    ADD COLUMN hearing_at timestamptz,
    ADD COLUMN flapping_since timestamptz,
    ADD COLUMN claimed_since timestamptz,
    ADD COLUMN claimants jsonb NOT NULL DEFAULT '[]';

COMMENT ON COLUMN devices.heartbeat_s IS 'How often the device said that it would be heard.';
COMMENT ON COLUMN devices.hearing IS
    'What prevails over the last word: silent although it was online, heard although it was offline.';
COMMENT ON COLUMN devices.claimants IS 'The machines that go by this name, where there are several.';
