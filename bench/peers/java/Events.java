import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import java.io.IOException;
import java.io.UncheckedIOException;

/** The messages of bench/work/events.py and what they become, by Jackson's data binding. */
final class Events {
    record Event(@JsonProperty("user_id") long userId, String kind, long amount, String note) {}

    record Done(@JsonProperty("user_id") long userId, String kind, long doubled, String note) {}

    private static final ObjectMapper MAPPER = new ObjectMapper();
    private static final ObjectReader READER = MAPPER.readerFor(Event.class);
    private static final ObjectWriter WRITER = MAPPER.writerFor(Done.class);

    private Events() {}

    static Event decode(byte[] value) {
        try {
            return READER.readValue(value);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    static Done done(Event event) {
        return new Done(event.userId(), event.kind(), 2 * event.amount(), event.note());
    }

    static byte[] encode(Done done) {
        try {
            return WRITER.writeValueAsBytes(done);
        } catch (JsonProcessingException error) {
            throw new UncheckedIOException(error);
        }
    }
}
