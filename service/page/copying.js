/** Text for the clipboard: the shown result, or code that requests it. */

const round = (value) => Math.round(100 * value) / 100;
/** The nearest pixel inside the picture, as the service's COCO results have it. */
const clip = (value, side) => Math.min(Math.max(value, 0), side - 1);

/** `shown` has width, height, persons and timings; `source` the name and type of the file. */
export const FORMS = {
  json: ({ width, height, persons, timings }) => JSON.stringify({ width, height, persons, timings }, null, 1),

  coco: ({ width, height, persons }) =>
    JSON.stringify(
      persons.map(({ keypoints, score, bbox: [x1, y1, x2, y2] }) => ({
        image_id: 0,
        category_id: 1,
        keypoints: keypoints.flatMap(([x, y, sure]) => [clip(x, width), clip(y, height), sure]),
        score,
        bbox: [x1, y1, round(x2 - x1), round(y2 - y1)],
      })),
    ),

  curl: (_, { name }, url, withKey) => {
    const file = `image=@"${name.replace(/["\\]/g, "\\$&")}"`;
    const key = withKey ? ` -H "Authorization: Bearer $POSE_API_KEY"` : "";
    return `curl -s${key} -F ${quoted(file)} ${quoted(url)}`;
  },

  python: (_, { name, type }, url, withKey) => {
    const key = withKey ? `, "authorization": "Bearer " + os.environ["POSE_API_KEY"]` : "";
    return `import json
${withKey ? "import os\n" : ""}import urllib.request

with open(${JSON.stringify(name)}, "rb") as file:
    picture = file.read()
headers = {"content-type": ${JSON.stringify(type)}${key}}
request = urllib.request.Request(${JSON.stringify(url)}, picture, headers)
with urllib.request.urlopen(request) as answer:
    for person in json.load(answer)["results"][0]["persons"]:
        print(person["score"], person["keypoints"])
`;
  },
};

/** Quoted as one word of a POSIX shell. */
function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
