import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.Statement;

/** The Arrow Flight SQL JDBC driver with a URL that carries everything, a token for one: prints one query's first column. */
public final class Token {
    public static void main(String[] args) throws Exception {
        try (Connection connection = DriverManager.getConnection(args[0]);
                Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(args[1])) {
            while (rows.next()) {
                System.out.println("row|" + rows.getString(1));
            }
        }
    }
}
