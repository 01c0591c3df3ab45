-- Catalogs that were made by CREATE CATALOG. The properties hold secrets: whoever can read this database can read them.
CREATE TABLE catalog (
    name       TEXT   NOT NULL PRIMARY KEY,
    id         TEXT   NOT NULL,           -- another catalog of the same name has another
    kind       TEXT   NOT NULL,
    properties TEXT   NOT NULL,           -- JSON object
    owner      TEXT   NOT NULL,
    created_us BIGINT NOT NULL            -- unix time in microseconds
);
