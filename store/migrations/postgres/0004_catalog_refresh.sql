-- The last CALL <catalog>.system.refresh() of each catalog: coordinators forget what they remember of it when the id is a new one.
CREATE TABLE catalog_refresh (
    name TEXT NOT NULL PRIMARY KEY,
    id   TEXT NOT NULL
);
