-- The same rule as decisions/presence.py; a test holds the two together. $8: replayed from the broker's memory.
INSERT INTO devices AS held
    (device, presence, presence_reason, presence_connection, presence_boot_id, presence_at, agent_version)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (device) DO UPDATE SET
    presence = excluded.presence,
    presence_reason = excluded.presence_reason,
    presence_connection = excluded.presence_connection,
    presence_boot_id = excluded.presence_boot_id,
    presence_at = excluded.presence_at,
    agent_version = excluded.agent_version,
    change = nextval('device_changes')
WHERE (held.presence, held.presence_reason, held.presence_connection, held.presence_boot_id)
      IS DISTINCT FROM
      (excluded.presence, excluded.presence_reason, excluded.presence_connection, excluded.presence_boot_id)
  AND (
      held.presence IS NULL
      OR CASE
          WHEN $8::boolean OR excluded.presence_boot_id = held.presence_boot_id
            OR (excluded.presence, held.presence) = ('offline', 'offline')
          THEN (excluded.presence_connection, excluded.presence = 'offline')
               >= (held.presence_connection, held.presence = 'offline')
          ELSE excluded.presence = 'online'
      END
  )
