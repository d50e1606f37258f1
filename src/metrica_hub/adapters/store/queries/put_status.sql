-- A status replaces the one before, unless it is an older one of the same boot.
INSERT INTO devices AS held
    (device, role, tags, mode, commit, release, wanted_commit, phase, reason, message, refused_commit, refused_reason,
     refused_message, status_at, status_boot_id, status_uptime_s, agent_version, stream, last_seq)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
ON CONFLICT (device) DO UPDATE SET
    role = excluded.role,
    tags = excluded.tags,
    mode = excluded.mode,
    commit = excluded.commit,
    release = excluded.release,
    wanted_commit = excluded.wanted_commit,
    phase = excluded.phase,
    reason = excluded.reason,
    message = excluded.message,
    refused_commit = excluded.refused_commit,
    refused_reason = excluded.refused_reason,
    refused_message = excluded.refused_message,
    status_at = excluded.status_at,
    status_boot_id = excluded.status_boot_id,
    status_uptime_s = excluded.status_uptime_s,
    agent_version = excluded.agent_version,
    stream = excluded.stream,
    last_seq = excluded.last_seq,
    change = nextval('device_changes')
WHERE held.status_boot_id IS DISTINCT FROM excluded.status_boot_id
   OR excluded.status_uptime_s >= held.status_uptime_s
