-- When scheduled maintenance of a table was last begun, so that of several coordinators one does it, and a restart does not.
CREATE TABLE maintenance_run (
    table_name TEXT   NOT NULL,           -- catalog.schema.table
    procedure  TEXT   NOT NULL,
    started_us BIGINT NOT NULL,           -- unix time in microseconds
    node       TEXT   NOT NULL,           -- incarnation of the coordinator
    PRIMARY KEY (table_name, procedure)
);
