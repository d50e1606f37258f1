-- Which agent a device is to run, by its wanted commit, and why another one runs.

ALTER TABLE devices
    ADD COLUMN wanted_agent text,
    ADD COLUMN agent_reason text,
    ADD COLUMN agent_message text;

COMMENT ON COLUMN devices.wanted_agent IS 'The version that the wanted commit names; null: it names none.';
COMMENT ON COLUMN devices.agent_reason IS 'Why another version runs; null: the wanted one does.';
