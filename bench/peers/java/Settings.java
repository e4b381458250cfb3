import java.util.Properties;

/** What bench/contenders.py tells a contender, and what all clients of a kind are set to. */
final class Settings {
    static final String INPUT = System.getenv("BENCH_INPUT");
    static final String OUTPUT = System.getenv("BENCH_OUTPUT");
    static final String GROUP = System.getenv("BENCH_GROUP");
    static final String COMPRESSION = "lz4";

    private Settings() {}

    static int bound() {
        return Integer.parseInt(System.getenv("BENCH_BOUND"));
    }

    static String database() {
        return System.getenv("BENCH_JDBC_URL");
    }

    /** With the servers' address, which every client needs. */
    static Properties properties() {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", System.getenv("PROCESSOR_KAFKA__BOOTSTRAP_SERVERS"));
        return properties;
    }
}
