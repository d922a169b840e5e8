import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.optimizely.ab.Optimizely;
import com.optimizely.ab.OptimizelyDecisionContext;
import com.optimizely.ab.OptimizelyForcedDecision;
import com.optimizely.ab.OptimizelyUserContext;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;

/** Decides flags with the Optimizely Java SDK and forwards every decision with the listener of docs/listeners. */
public final class Drive {
  public static void main(String[] arguments) throws Exception {
    Map<String, String> given = new HashMap<>();
    for (int at = 0; at + 1 < arguments.length; at += 2) given.put(arguments[at], arguments[at + 1]);
    ObjectMapper json = new ObjectMapper();
    JsonNode cases = json.readTree(new File(given.get("--cases")));
    Optimizely optimizely = Optimizely.builder()
        .withDatafile(Files.readString(Path.of(given.get("--datafile"))))
        .withEventHandler(event -> {})
        .build();
    try (AqueductListener aqueduct = new AqueductListener(given.get("--host"), given.get("--write-key"))) {
      optimizely.addDecisionNotificationHandler(aqueduct::accept);
      for (JsonNode one : cases) {
        @SuppressWarnings("unchecked")
        Map<String, Object> attributes = json.convertValue(one.get("attributes"), Map.class);
        String flag = one.get("flag").asText();
        OptimizelyUserContext user = optimizely.createUserContext(one.get("user").asText(), attributes);
        if (one.has("forced")) {
          String rule = one.get("forced").has("rule") ? one.get("forced").get("rule").asText() : null;
          String variation = one.get("forced").get("variation").asText();
          user.setForcedDecision(new OptimizelyDecisionContext(flag, rule), new OptimizelyForcedDecision(variation));
        }
        user.decide(flag);
      }
    }
    System.out.println("{\"sent\":" + cases.size() + "}");
  }
}
