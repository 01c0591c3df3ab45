import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.Statement;

/** The Arrow Flight SQL JDBC driver against a running server: queries, metadata, bound parameters. Prints what it sees. */
public final class Query {
    public static void main(String[] args) throws Exception {
        try (Connection connection = DriverManager.getConnection(args[0], args[1], args[2])) {
            try (Statement statement = connection.createStatement();
                    ResultSet rows = statement.executeQuery(args[3])) {
                int columns = rows.getMetaData().getColumnCount();
                while (rows.next()) {
                    StringBuilder line = new StringBuilder("row");
                    for (int column = 1; column <= columns; column++) {
                        line.append('|').append(rows.getString(column));
                    }
                    System.out.println(line);
                }
            }
            try (PreparedStatement statement =
                    connection.prepareStatement("SELECT c_name FROM crm.public.customer WHERE c_custkey = ?")) {
                statement.setLong(1, 42);
                try (ResultSet rows = statement.executeQuery()) {
                    while (rows.next()) {
                        System.out.println("bound|" + rows.getString(1));
                    }
                }
            }
            DatabaseMetaData metadata = connection.getMetaData();
            System.out.println("product|" + metadata.getDatabaseProductName());
            try (ResultSet tables = metadata.getTables("lake", "tpch", "%", null)) {
                while (tables.next()) {
                    System.out.println("table|" + tables.getString("TABLE_NAME"));
                }
            }
        }
    }
}
