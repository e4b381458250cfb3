import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KafkaStreams.State;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;

/**
 * Kafka Streams, exactly_once_v2, on one thread: Kafka to Kafka. It commits every 100 ms, which is
 * its default under exactly-once.
 */
public final class KafkaStreamsTransform {
    private static final Duration CLOSE = Duration.ofSeconds(30);

    public static void main(String[] arguments) throws InterruptedException {
        KafkaStreams streams = new KafkaStreams(topology(), properties());
        CountDownLatch ended = new CountDownLatch(1);
        streams.setStateListener((now, before) -> {
            if (now == State.NOT_RUNNING || now == State.ERROR) ended.countDown();
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(CLOSE)));
        streams.start();
        ended.await();
        System.exit(1);
    }

    private static Topology topology() {
        Serde<byte[]> keys = Serdes.ByteArray();
        Serde<Events.Event> events = Serdes.serdeFrom(
            (topic, event) -> { throw new UnsupportedOperationException(); },
            (topic, value) -> Events.decode(value));
        Serde<Events.Done> dones = Serdes.serdeFrom(
            (topic, done) -> Events.encode(done),
            (topic, value) -> { throw new UnsupportedOperationException(); });
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(Settings.INPUT, Consumed.with(keys, events))
            .mapValues(Events::done)
            .to(Settings.OUTPUT, Produced.with(keys, dones));
        return builder.build();
    }

    private static Properties properties() {
        Properties properties = Settings.properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, Settings.GROUP);
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, "kafka-streams");
        properties.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        Settings.producer().forEach(
            (name, value) -> properties.put(StreamsConfig.producerPrefix(name), value));
        return properties;
    }
}
