import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * The Arrow Flight SQL JDBC driver against a running server: the statements of a folder, bound parameters, metadata.
 *
 * <p>Prints what it sees, one line each: the kind of line, then its cells, with tabs between. A cell is escaped, so that it
 * holds neither tab nor line end; NULL is {@code \N}.
 */
public final class Query {
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    public static void main(String[] args) throws Exception {
        List<Path> statements;
        try (Stream<Path> files = Files.list(Path.of(args[3]))) {
            statements = files.sorted().collect(Collectors.toList());
        }
        try (Connection connection = DriverManager.getConnection(args[0], args[1], args[2])) {
            for (Path file : statements) {
                run(connection, file.getFileName().toString().replace(".sql", ""), Files.readString(file));
            }
            try (PreparedStatement statement =
                    connection.prepareStatement("SELECT c_name FROM crm.public.customer WHERE c_custkey = ?")) {
                statement.setLong(1, 42);
                try (ResultSet rows = statement.executeQuery()) {
                    while (rows.next()) {
                        print("bound", rows.getString(1));
                    }
                }
            }
            try (Statement statement = connection.createStatement()) {
                statement.execute("CREATE OR REPLACE VIEW lake.tpch.jdbc_view AS SELECT o_orderkey AS id FROM lake.tpch.orders");
            }
            DatabaseMetaData metadata = connection.getMetaData();
            print("product", metadata.getDatabaseProductName());
            try (ResultSet tables = metadata.getTables("lake", "tpch", "%", null)) {
                while (tables.next()) {
                    print("table", tables.getString("TABLE_NAME"), tables.getString("TABLE_TYPE"));
                }
            }
            try (ResultSet columns = metadata.getColumns("lake", "tpch", "jdbc\\_view", "%")) {
                while (columns.next()) {
                    print("viewcolumn", columns.getString("TABLE_NAME"), columns.getString("COLUMN_NAME"));
                }
            }
            try (Statement statement = connection.createStatement()) {
                statement.execute("DROP VIEW lake.tpch.jdbc_view");
            }
        }
    }

    /** One statement: the names of its columns and its rows, or its error. */
    private static void run(Connection connection, String name, String sql) {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(sql)) {
            ResultSetMetaData metadata = rows.getMetaData();
            String[] cells = new String[metadata.getColumnCount() + 1];
            cells[0] = name;
            for (int column = 1; column < cells.length; column++) {
                cells[column] = metadata.getColumnLabel(column);
            }
            print("columns", cells);
            while (rows.next()) {
                for (int column = 1; column < cells.length; column++) {
                    cells[column] = rows.getString(column);
                }
                print("row", cells);
            }
        } catch (SQLException error) {
            print("error", name, error.getMessage());
        }
    }

    private static void print(String kind, String... cells) {
        StringBuilder line = new StringBuilder(kind);
        for (String cell : cells) {
            line.append('\t').append(escape(cell));
        }
        OUT.print(line.append('\n'));
    }

    private static String escape(String cell) {
        if (cell == null) {
            return "\\N";
        }
        return cell.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r");
    }
}
