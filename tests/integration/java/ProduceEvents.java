import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Sends records as any Java service would: Kafka's own client with its default partitioner.
 *
 * <p>Arguments: bootstrap servers, topic. Each line of the standard input is one record: key and
 * value as hexadecimal digits, with a comma between. Prints partition and offset of each.
 */
public class ProduceEvents {
    public static void main(String[] arguments) throws Exception {
        Map<String, Object> settings =
                Map.of("bootstrap.servers", arguments[0], "delivery.timeout.ms", 30_000,
                        "request.timeout.ms", 10_000, "acks", "all");
        var serializer = new ByteArraySerializer();
        try (var producer = new KafkaProducer<>(settings, serializer, serializer)) {
            for (Future<RecordMetadata> sent : send(producer, arguments[1])) {
                RecordMetadata record = sent.get();
                System.out.println(record.partition() + " " + record.offset());
            }
        }
    }

    private static List<Future<RecordMetadata>> send(
            KafkaProducer<byte[], byte[]> producer, String topic) throws Exception {
        var hex = HexFormat.of();
        var sent = new ArrayList<Future<RecordMetadata>>();
        var lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] fields = line.split(",", -1);
            byte[] key = hex.parseHex(fields[0]);
            byte[] value = hex.parseHex(fields[1]);
            sent.add(producer.send(new ProducerRecord<>(topic, key, value)));
        }
        return sent;
    }
}
