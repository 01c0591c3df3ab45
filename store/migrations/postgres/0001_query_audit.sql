-- The audit log of queries: one row when a query is admitted, one when it ends. Rows are only ever added.
CREATE TABLE query_audit (
    sequence  BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    query_id  TEXT    NOT NULL,
    event     TEXT    NOT NULL CHECK (event IN ('started', 'ended')),
    at_us     BIGINT  NOT NULL,           -- unix time in microseconds
    principal TEXT    NOT NULL,
    node      TEXT    NOT NULL,           -- incarnation of the coordinator
    sql_text  TEXT,                       -- of 'started': the statement as the user gave it
    state     TEXT,                       -- of 'ended': finished, failed or cancelled
    code      TEXT,                       -- of 'ended': the public error code
    row_count BIGINT,                     -- of 'ended'
    byte_size BIGINT,                     -- of 'ended'
    catalogs  TEXT    NOT NULL,           -- JSON list of the catalogs touched
    UNIQUE (query_id, event)
);

CREATE FUNCTION query_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'query_audit is append-only';
END;
$$;

CREATE TRIGGER query_audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON query_audit
    FOR EACH STATEMENT EXECUTE FUNCTION query_audit_refuse();
