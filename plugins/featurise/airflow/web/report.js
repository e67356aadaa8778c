// The tab Report of a run: the page in a frame, told Airflow's theme, since a browser tells a frame the system's only.
// The page runs no script; its links open beside Airflow.
const { createElement, useEffect, useState } = globalThis.React;
const root = document.documentElement;
const themeOf = () => (root.classList.contains("dark") ? "dark" : "light");

globalThis.AirflowPlugin = function Report({ dagId, runId }) {
  const [theme, setTheme] = useState(themeOf);
  useEffect(() => {
    const observer = new MutationObserver(() => setTheme(themeOf()));
    observer.observe(root, { attributeFilter: ["class"] });
    return () => observer.disconnect();
  }, []);
  const path = `featurise/report/${encodeURIComponent(dagId)}/${encodeURIComponent(runId)}?theme=${theme}`;
  return createElement("iframe", {
    title: "Report",
    src: new URL(path, document.baseURI).href,
    sandbox: "allow-popups allow-popups-to-escape-sandbox",
    style: { border: "none", display: "block", width: "100%", height: "100%" },
  });
};
