using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Net.Http;
using System.Text;
using System.Threading.Tasks;
using Newtonsoft.Json;
using OptimizelySDK;
using OptimizelySDK.Entity;

/// <summary>
/// Forwards every flag decision of the Optimizely C# SDK to aqueduct.
/// <code>
/// var aqueduct = new AqueductListener("https://events.example.org", "WRITE_KEY");
/// optimizely.NotificationCenter.AddNotification(NotificationCenter.NotificationType.Decision, aqueduct.Accept);
/// …
/// aqueduct.Dispose(); // before the process ends
/// </code>
/// (with <c>using OptimizelySDK.Notifications;</c>). Add it before the first Decide(): the SDK tells no earlier decisions.
/// Nothing here throws into or waits in Decide().
/// </summary>
public sealed class AqueductListener : IDisposable
{
    private const int BatchEvents = 100;
    private const int BatchBytes = 400_000; // a request may have 500 KB
    private const int EventBytes = 30_000; // an event may have 32 KB

    private readonly BlockingCollection<string> queue = new BlockingCollection<string>(10_000);
    private readonly HttpClient http = new HttpClient { Timeout = TimeSpan.FromSeconds(10) };
    private readonly Random random = new Random();
    private readonly Task sending;
    private readonly string url;

    public AqueductListener(string url, string writeKey)
    {
        this.url = url + "/v1/decision";
        http.DefaultRequestHeaders.Add("Authorization", "Bearer " + writeKey);
        sending = Task.Run(Run);
    }

    public void Accept(string type, string userId, UserAttributes attributes, Dictionary<string, object> decisionInfo)
    {
        if (type != "flag") return; // older calls report other types, which name no flag rule
        try
        {
            var info = new Dictionary<string, object>(decisionInfo);
            if (info.TryGetValue("variables", out var variables) && variables is OptimizelyJSON json) info["variables"] = json.ToDictionary();
            // The id makes a repeated post harmless; the time is that of the decision, not of the post.
            var decision = new Dictionary<string, object>
            {
                ["messageId"] = Guid.NewGuid().ToString(),
                ["timestamp"] = DateTime.UtcNow.ToString("o"),
                ["type"] = type,
                ["userId"] = userId,
                ["attributes"] = attributes,
                ["decisionInfo"] = info,
            };
            // By the SDK's own JSON library: values of its datafile are of that library's types.
            var text = JsonConvert.SerializeObject(decision);
            if (Encoding.UTF8.GetByteCount(text) > EventBytes)
            {
                // Variables and reasons can be long; what was decided is not.
                info.Remove("variables");
                info.Remove("reasons");
                text = JsonConvert.SerializeObject(decision);
            }
            if (!queue.TryAdd(text)) Console.Error.WriteLine("aqueduct: the queue is full, a decision was dropped");
        }
        catch (Exception error)
        {
            Console.Error.WriteLine($"aqueduct: {error.Message}");
        }
    }

    /// <summary>Posts what is queued, within half a minute.</summary>
    public void Dispose()
    {
        queue.CompleteAdding();
        sending.Wait(TimeSpan.FromSeconds(30));
    }

    private async Task Run()
    {
        string left = null;
        while (left != null || !queue.IsCompleted)
        {
            var next = left;
            left = null;
            if (next == null && !queue.TryTake(out next, 200)) continue;
            if (!queue.IsAddingCompleted && queue.Count < BatchEvents) await Task.Delay(200);
            var body = new StringBuilder("{\"batch\":[");
            var bytes = 0;
            for (var count = 0; next != null; count++)
            {
                bytes += Encoding.UTF8.GetByteCount(next);
                if (count == BatchEvents || count > 0 && bytes > BatchBytes)
                {
                    left = next;
                    break;
                }
                if (count > 0) body.Append(',');
                body.Append(next);
                if (!queue.TryTake(out next)) next = null;
            }
            await Post(body.Append("]}").ToString());
        }
    }

    private async Task Post(string body)
    {
        for (var tries = 0; ; tries++)
        {
            var wait = TimeSpan.FromMilliseconds(random.NextDouble() * Math.Min(30_000, 250 * Math.Pow(2, tries)));
            try
            {
                using (var answer = await http.PostAsync(url, new StringContent(body, Encoding.UTF8, "application/json")))
                {
                    var status = (int)answer.StatusCode;
                    if (status != 408 && status != 429 && status < 500)
                    {
                        var said = await answer.Content.ReadAsStringAsync();
                        if (status != 200 || !said.Contains("\"rejected\":[]")) Console.Error.WriteLine($"aqueduct: {status} {said}");
                        return; // a wrong key or a wrong body does not get better
                    }
                    if (answer.Headers.RetryAfter?.Delta is TimeSpan after && after > wait) wait = after;
                }
            }
            catch (Exception error) when (error is HttpRequestException || error is TaskCanceledException)
            {
                if (tries == 0) Console.Error.WriteLine($"aqueduct: {error.Message}");
            }
            await Task.Delay(wait);
        }
    }
}
