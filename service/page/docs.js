/** Shows the OpenAPI document in Swagger UI, whose script this page loads first. */
if (window.SwaggerUIBundle) {
  window.SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#docs",
    deepLinking: true,
    validatorUrl: null, // otherwise the document is sent to a server of Swagger
  });
}
