/** Shows the OpenAPI document in Swagger UI, whose script this page loads first. */
if (window.SwaggerUIBundle) {
  window.SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#docs",
    deepLinking: true,
    validatorUrl: null, // else the document goes to a server of Swagger's
  });
}
