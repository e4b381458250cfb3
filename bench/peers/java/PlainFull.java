import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.postgresql.PGConnection;

/**
 * kafka-clients and JDBC as one would write them by hand: a row, a counter and an output for each
 * message, a Postgres transaction and then a Kafka transaction for each poll. Rows go by COPY: a
 * batch of INSERTs, rewritten by the driver, is about as fast and takes a little more of Postgres.
 *
 * <p>Exactly-once in Kafka only: what Postgres has committed is done again after a crash between
 * both commits, and rows and counters with it.
 */
public final class PlainFull {
    private static final Duration POLL = Duration.ofMillis(100);
    private static final String COPY_ROWS =
        "COPY bench.rows (partition, \"offset\", user_id, amount, kind) FROM STDIN";
    private static final String ADD_TO_COUNTERS =
        "INSERT INTO bench.counters AS c (user_id, messages, amount)"
            + " SELECT * FROM unnest(?::bigint[], ?::bigint[], ?::bigint[])"
            + " ON CONFLICT (user_id) DO UPDATE"
            + " SET messages = c.messages + excluded.messages, amount = c.amount + excluded.amount";

    private static volatile boolean stopped;

    private record Decoded(ConsumerRecord<byte[], byte[]> message, Events.Event event) {}

    private record Total(long messages, long amount) {
        Total plus(Total other) {
            return new Total(messages + other.messages, amount + other.amount);
        }
    }

    public static void main(String[] arguments) throws Exception {
        stopInOrder(Thread.currentThread());
        try (Connection connection = DriverManager.getConnection(Settings.database());
                KafkaConsumer<byte[], byte[]> consumer = consumer();
                KafkaProducer<byte[], byte[]> producer = producer()) {
            connection.setAutoCommit(false);
            while (!stopped) {
                ConsumerRecords<byte[], byte[]> messages = consumer.poll(POLL);
                if (!messages.isEmpty()) work(messages, connection, consumer, producer);
            }
        }
    }

    /** SIGTERM ends the loop behind the batch in hand, and the Java behind the loop. */
    private static void stopInOrder(Thread loop) {
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopped = true;
            try {
                loop.join();
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
        }));
    }

    private static void work(
            ConsumerRecords<byte[], byte[]> messages, Connection connection,
            KafkaConsumer<byte[], byte[]> consumer, KafkaProducer<byte[], byte[]> producer)
            throws SQLException, IOException {
        List<Decoded> batch = new ArrayList<>(messages.count());
        for (ConsumerRecord<byte[], byte[]> message : messages) {
            batch.add(new Decoded(message, Events.decode(message.value())));
        }
        producer.beginTransaction();
        send(batch, producer);
        copyRows(batch, connection);
        addToCounters(batch, connection);
        producer.sendOffsetsToTransaction(after(batch), consumer.groupMetadata());
        connection.commit();
        producer.commitTransaction();
    }

    private static void send(List<Decoded> batch, KafkaProducer<byte[], byte[]> producer) {
        for (Decoded each : batch) {
            byte[] value = Events.encode(Events.done(each.event));
            ConsumerRecord<byte[], byte[]> message = each.message;
            producer.send(new ProducerRecord<>(
                Settings.OUTPUT, null, message.timestamp(), message.key(), value));
        }
    }

    private static void copyRows(List<Decoded> batch, Connection connection)
            throws SQLException, IOException {
        StringBuilder rows = new StringBuilder(batch.size() * 40);
        for (Decoded each : batch) {
            rows.append(each.message.partition()).append('\t')
                .append(each.message.offset()).append('\t')
                .append(each.event.userId()).append('\t')
                .append(each.event.amount()).append('\t')
                .append(escaped(each.event.kind())).append('\n');
        }
        byte[] text = rows.toString().getBytes(StandardCharsets.UTF_8);
        connection.unwrap(PGConnection.class).getCopyAPI()
            .copyIn(COPY_ROWS, new ByteArrayInputStream(text));
    }

    private static String escaped(String text) {
        return text.replace("\\", "\\\\").replace("\t", "\\t")
            .replace("\n", "\\n").replace("\r", "\\r");
    }

    private static void addToCounters(List<Decoded> batch, Connection connection)
            throws SQLException {
        Map<Long, Total> totals = new TreeMap<>();
        for (Decoded each : batch) {
            totals.merge(each.event.userId(), new Total(1, each.event.amount()), Total::plus);
        }
        try (PreparedStatement statement = connection.prepareStatement(ADD_TO_COUNTERS)) {
            statement.setArray(1, connection.createArrayOf("bigint", totals.keySet().toArray()));
            statement.setArray(2, connection.createArrayOf(
                "bigint", totals.values().stream().map(Total::messages).toArray()));
            statement.setArray(3, connection.createArrayOf(
                "bigint", totals.values().stream().map(Total::amount).toArray()));
            statement.executeUpdate();
        }
    }

    private static Map<TopicPartition, OffsetAndMetadata> after(List<Decoded> batch) {
        Map<TopicPartition, OffsetAndMetadata> ends = new HashMap<>();
        for (Decoded each : batch) {
            ends.put(
                new TopicPartition(each.message.topic(), each.message.partition()),
                new OffsetAndMetadata(each.message.offset() + 1));
        }
        return ends;
    }

    private static KafkaConsumer<byte[], byte[]> consumer() {
        Properties properties = Settings.properties();
        properties.put("group.id", Settings.GROUP);
        properties.put("auto.offset.reset", "earliest");
        properties.put("enable.auto.commit", "false");
        properties.put("isolation.level", "read_committed");
        properties.put("max.poll.records", Settings.bound());
        KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(
            properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        consumer.subscribe(List.of(Settings.INPUT));
        return consumer;
    }

    private static KafkaProducer<byte[], byte[]> producer() {
        Properties properties = Settings.properties();
        properties.put("transactional.id", Settings.GROUP);
        properties.putAll(Settings.producer());
        KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(
            properties, new ByteArraySerializer(), new ByteArraySerializer());
        producer.initTransactions();
        return producer;
    }
}
