INSERT INTO heads AS held (branch, commit, number) VALUES ($1, $2, 1)
ON CONFLICT (branch) DO UPDATE SET
    number = CASE WHEN held.commit = excluded.commit THEN held.number ELSE held.number + 1 END,
    seen_at = CASE WHEN held.commit = excluded.commit THEN held.seen_at ELSE now() END,
    commit = excluded.commit
RETURNING number
