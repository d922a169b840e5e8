import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.optimizely.ab.notification.DecisionNotification;
import com.optimizely.ab.optimizelyjson.OptimizelyJSON;
import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/**
 * Forwards every flag decision of the Optimizely Java SDK to aqueduct.
 *
 * <pre>
 * AqueductListener aqueduct = new AqueductListener("https://events.example.org", "WRITE_KEY");
 * optimizely.addDecisionNotificationHandler(aqueduct::accept);
 * …
 * aqueduct.close(); // before the process ends
 * </pre>
 *
 * Add it before the first decide(): the SDK tells no earlier decisions. Nothing here throws into or waits in decide().
 */
public final class AqueductListener implements AutoCloseable {
  private static final int BATCH_EVENTS = 100;
  private static final int BATCH_BYTES = 400_000; // a request may have 500 KB
  private static final int EVENT_BYTES = 30_000; // an event may have 32 KB

  private final LinkedBlockingQueue<byte[]> queue = new LinkedBlockingQueue<>(10_000);
  private final HttpClient http = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(5)).build();
  private final ObjectMapper json = new ObjectMapper();
  private final Thread thread = new Thread(this::run, "aqueduct");
  private final URI url;
  private final String writeKey;
  private volatile boolean closing;

  public AqueductListener(String url, String writeKey) {
    this.url = URI.create(url + "/v1/decision");
    this.writeKey = writeKey;
    thread.setDaemon(true);
    thread.start();
  }

  public void accept(DecisionNotification notification) {
    if (!"flag".equals(notification.getType())) return; // older calls report other types, which name no flag rule
    Map<String, Object> info = new HashMap<>(notification.getDecisionInfo());
    Object variables = info.get("variables");
    if (variables instanceof OptimizelyJSON) info.put("variables", ((OptimizelyJSON) variables).toMap());
    // The id makes a repeated post harmless; the time is that of the decision, not of the post.
    Map<String, Object> event = new HashMap<>();
    event.put("messageId", UUID.randomUUID().toString());
    event.put("timestamp", Instant.now().toString());
    event.put("type", notification.getType());
    event.put("userId", notification.getUserId());
    event.put("attributes", notification.getAttributes());
    event.put("decisionInfo", info);
    try {
      byte[] text = json.writeValueAsBytes(event);
      if (text.length > EVENT_BYTES) {
        // Variables and reasons can be long; what was decided is not.
        info.remove("variables");
        info.remove("reasons");
        text = json.writeValueAsBytes(event);
      }
      if (!queue.offer(text)) System.err.println("aqueduct: the queue is full, a decision was dropped");
    } catch (JsonProcessingException | RuntimeException error) {
      System.err.println("aqueduct: " + error);
    }
  }

  /** Posts what is queued, within half a minute. */
  @Override
  public void close() {
    closing = true;
    try {
      thread.join(30_000);
    } catch (InterruptedException ended) {
      Thread.currentThread().interrupt();
    }
  }

  private void run() {
    byte[] left = null;
    try {
      while (left != null || !closing || !queue.isEmpty()) {
        byte[] next = left != null ? left : queue.poll(200, TimeUnit.MILLISECONDS);
        left = null;
        if (next == null) continue;
        if (!closing && queue.size() < BATCH_EVENTS) Thread.sleep(200);
        ByteArrayOutputStream body = new ByteArrayOutputStream();
        body.writeBytes("{\"batch\":[".getBytes(StandardCharsets.UTF_8));
        for (int count = 0; next != null; count++, next = queue.poll()) {
          if (count == BATCH_EVENTS || count > 0 && body.size() + next.length > BATCH_BYTES) {
            left = next;
            break;
          }
          if (count > 0) body.write(',');
          body.writeBytes(next);
        }
        body.writeBytes("]}".getBytes(StandardCharsets.UTF_8));
        post(body.toByteArray());
      }
    } catch (InterruptedException ended) {
      Thread.currentThread().interrupt();
    }
  }

  private void post(byte[] body) throws InterruptedException {
    HttpRequest request = HttpRequest.newBuilder(url).timeout(Duration.ofSeconds(10))
        .header("authorization", "Bearer " + writeKey)
        .POST(HttpRequest.BodyPublishers.ofByteArray(body)).build();
    for (int tries = 0; ; tries++) {
      long wait = ThreadLocalRandom.current().nextLong(1 + Math.min(30_000L, 250L << Math.min(tries, 7)));
      try {
        HttpResponse<String> answer = http.send(request, HttpResponse.BodyHandlers.ofString());
        int status = answer.statusCode();
        if (status != 408 && status != 429 && status < 500) {
          if (status != 200 || !answer.body().contains("\"rejected\":[]")) System.err.println("aqueduct: " + status + " " + answer.body());
          return; // a wrong key or a wrong body does not get better
        }
        wait = Math.max(wait, 1_000 * answer.headers().firstValueAsLong("retry-after").orElse(0));
      } catch (java.io.IOException error) {
        if (tries == 0) System.err.println("aqueduct: " + error);
      }
      Thread.sleep(wait);
    }
  }
}
