-- Rollouts: how far each commit's gate is open, and what became of each device. The state here is the truth; the gate
-- that devices hear is made from it.

ALTER TABLE heads
    ADD COLUMN read_commit text,
    ADD COLUMN read_at timestamptz,
    ADD COLUMN problems text[] NOT NULL DEFAULT '{}',
    ADD COLUMN signers text;

COMMENT ON COLUMN heads.read_commit IS 'Up to which commit of the branch the hub has read what the fleet is.';
COMMENT ON COLUMN heads.problems IS 'Why that commit can''t be used, where it can''t: no rollout is begun for it.';
COMMENT ON COLUMN heads.signers IS 'allowed_signers of that commit.';

CREATE TABLE rollouts (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    commit     text NOT NULL,
    previous   text,
    policy     jsonb NOT NULL,
    stages     jsonb NOT NULL,
    course     jsonb NOT NULL,
    number     bigint NOT NULL UNIQUE,
    begun_at   timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    ended_at   timestamptz
);

COMMENT ON COLUMN rollouts.policy IS '[rollout] of the commit.';
COMMENT ON COLUMN rollouts.stages IS 'Of each stage its name, the gate''s threshold, and the counts of its devices as they were last.';
COMMENT ON COLUMN rollouts.course IS 'How far it is open, and why it is not (metrica_fleet/rollout.py).';
COMMENT ON COLUMN rollouts.number IS 'Of the gate: rises with each change, over all rollouts.';

CREATE TABLE rollout_devices (
    rollout        bigint NOT NULL REFERENCES rollouts ON DELETE CASCADE,
    device         text NOT NULL,
    stage          integer NOT NULL,
    release_before text,
    state          text NOT NULL DEFAULT 'waiting'
                   CHECK (state IN ('waiting', 'started', 'confirmed', 'unchanged', 'refused')),
    reason         text,
    message        text NOT NULL DEFAULT '',
    since          timestamptz NOT NULL,
    PRIMARY KEY (rollout, device)
);

COMMENT ON COLUMN rollout_devices.release_before IS 'What it had confirmed when the rollout began: the same again proves nothing.';
COMMENT ON COLUMN rollout_devices.state IS 'By its own words; that it is silent follows from since.';
