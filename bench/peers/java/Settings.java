import java.util.Map;
import java.util.Properties;

/** What bench/contenders.py tells a contender, and what all clients of a kind are set to. */
final class Settings {
    static final String INPUT = System.getenv("BENCH_INPUT");
    static final String OUTPUT = System.getenv("BENCH_OUTPUT");
    static final String GROUP = System.getenv("BENCH_GROUP");

    private static final String COMPRESSION = "lz4";
    private static final int LINGER_MS = 100;
    private static final int BATCH_BYTES = 128 * 1024;

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

    /**
     * What makes fewer and larger requests of outputs. The default of 16 kB is a third of what a
     * batch has for one partition; a commit waits for no linger, and Kafka Streams' own is 100 ms.
     */
    static Map<String, Object> producer() {
        return Map.of(
            "compression.type", COMPRESSION, "linger.ms", LINGER_MS, "batch.size", BATCH_BYTES);
    }
}
